"""How headless Chromium is started without a graphics card; nothing of its own goes to the network."""

__all__ = ["FLAGS"]

FLAGS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
]
