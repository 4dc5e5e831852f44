"""Models behind HTTP: `batching` writes many texts on one loop, `app` speaks OpenAI's shapes."""
