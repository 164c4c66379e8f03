"""The figures of every task, each with its interval over patients."""
