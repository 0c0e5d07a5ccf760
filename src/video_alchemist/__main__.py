"""python -m video_alchemist"""

from video_alchemist.cli import main

main()
