"""`orchestrator report`: one page that tells of a job in numbers and pictures."""
