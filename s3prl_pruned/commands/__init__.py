"""The command lines: one module each, with `make_parser` and `main(argv)`. The clone's scripts call them too."""
