"""What shmhub costs, measured beside what one would use instead. See README.md."""
