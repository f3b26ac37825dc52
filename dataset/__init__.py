"""Training data: files and drawn pictures, their checks, and the way from a sample to a batch."""

from .images import ImagesDataset, SampleDataset, ZipDataset
from .video import VideoDataset

__all__ = ['ImagesDataset', 'SampleDataset', 'VideoDataset', 'ZipDataset']
