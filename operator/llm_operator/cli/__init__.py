"""The command line: what people type, and how it looks on a terminal or in a pipe.

May ask every room below; decides nothing about models itself.
"""
