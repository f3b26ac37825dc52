"""Live matting: camera, window and virtual camera."""
