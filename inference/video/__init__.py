"""From videos to mattes of videos."""
