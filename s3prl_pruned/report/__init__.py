"""Tables, pictures and tests of significance, made from the JSON and CSV files of runs."""
