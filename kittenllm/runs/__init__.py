"""Run folders, stages that survive a kill, checkpoints and progress."""
