"""Tables, figures and significance tests, made from the JSON and CSV files of runs."""
