"""Models over HTTP: a bounded queue in front of the engines, an API, and a page."""
