"""Numbers, tables, figures and files of the command line's reports."""
