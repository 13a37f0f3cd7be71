"""The flows as a service: deployments, containers, and the same stack as local processes."""
