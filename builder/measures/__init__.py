"""The figures of all tasks, each with a 95 % interval from a bootstrap over patients, as plain JSON data."""
