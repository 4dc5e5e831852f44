"""The gallery as a Space; `python gallery/app.py` starts the same on this machine."""

from zoo_gallery.app import launch

if __name__ == "__main__":
    launch()
