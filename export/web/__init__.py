"""Networks in a browser: a folder with a page, the ONNX file and ONNX Runtime Web. Imports nothing slow."""

from pathlib import Path

PAGE = Path(__file__).parent / 'page'
MODEL, CHECK = 'matting.onnx', 'check.bin'
MARKER = 'matting.json'  # the settings; a folder that has them was made here, and may be replaced
