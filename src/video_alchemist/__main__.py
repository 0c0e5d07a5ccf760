"""python -m video_alchemist"""

from video_alchemist.cli.main import main

main()
