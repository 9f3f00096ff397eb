"""The side-by-side comparison of Outrigger with other proxies: see ../README.md."""
