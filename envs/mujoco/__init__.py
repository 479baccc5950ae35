"""Mazes in MuJoCo: a ball and an ant in Gymnasium-Robotics' mazes, on IRPO's maps and on a ladder of our own.

Nothing is imported here, because ``import envs`` reads the names of the maps and must not load the simulator.
"""
