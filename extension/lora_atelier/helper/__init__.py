"""The helper process: what needs packages that webuis lack. It runs in the trainer's environment, and nothing of a host
process imports it: questions and answers are lines of JSON (``__main__``)."""
