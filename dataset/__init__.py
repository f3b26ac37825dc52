"""Training data: files and drawn pictures, their checks, and the way from a sample to a batch."""

from .published import ImagesDataset, SampleDataset, ZipDataset
from .video import VideoDataset

__all__ = ['ImagesDataset', 'SampleDataset', 'VideoDataset', 'ZipDataset']
