"""A text-generation-inference server without a model: its launcher's rules, its wire format."""
