"""The routes: their requests, their answers, and what happens between."""
