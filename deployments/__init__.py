"""What runs the flows as a service: its deployments, its containers, and the same stack as local processes."""
