"""The published descriptions of the API: OpenAPI, AsyncAPI, their components and examples, the reference page."""
