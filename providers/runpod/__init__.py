"""RunPod: REST v2 for everything, its legacy GraphQL only for spot."""
