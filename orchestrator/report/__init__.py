"""The page about one run: `collect` reads, `pictures` inlines, `render` writes HTML. Only `render` knows jinja2."""
