"""Solves MiniGrid's tasks with full knowledge of the grid: goals, doors, keys, boxes with keys in them, things in the way.

``solve(env)`` acts in a ``MiniGridTask`` until its episode ends and returns the last step's result.
"""

from collections import deque

from minigrid.core.constants import DIR_TO_VEC

LEFT, RIGHT, FORWARD, PICKUP, DROP, TOGGLE, DONE = range(7)
MOVES = [tuple(int(d) for d in vector) for vector in DIR_TO_VEC]  # by direction: right, down, left, up


def solve(env):
    """(observation, reward, terminated, truncated, info) of the episode's last step."""
    planner = Planner(env)
    kind = type(planner.game).__name__
    try:
        PLANS.get(kind, go_to_the_goal)(planner)
    except EpisodeEnd as end:
        return end.args[0]
    raise AssertionError(f"the plan for {kind} has ended, and the episode has not")


class EpisodeEnd(Exception):
    pass


class Planner:
    def __init__(self, env):
        self.env, self.game = env, env.unwrapped.minigrid

    # --- what is where

    @property
    def position(self):
        return tuple(int(x) for x in self.game.agent_pos)

    def at(self, cell):
        inside = 0 <= cell[0] < self.game.width and 0 <= cell[1] < self.game.height
        return self.game.grid.get(*cell) if inside else WALL

    def cells(self, kind, colour=None):
        """Where objects of a type and colour lie."""
        grid = [(x, y) for x in range(self.game.width) for y in range(self.game.height)]
        return [
            cell
            for cell in grid
            if (thing := self.at(cell)) and thing.type == kind and (colour is None or thing.color == colour)
        ]

    def find(self, thing):
        """The cell of a thing, or of the box that it is in."""
        for cell in ((x, y) for x in range(self.game.width) for y in range(self.game.height)):
            here = self.at(cell)
            if here is not None and (here is thing or here.contains is thing):
                return cell
        raise AssertionError(f"{thing.color} {thing.type} is nowhere")

    def path(self, start, targets, passable):
        """The shortest path from ``start`` to any of ``targets`` (which need not be passable), without ``start``; or None."""
        before, queue = {start: None}, deque([start])
        while queue:
            cell = queue.popleft()
            if cell in targets and cell != start:
                steps = []
                while cell != start:
                    steps.append(cell)
                    cell = before[cell]
                return steps[::-1]
            for dx, dy in MOVES:
                following = (cell[0] + dx, cell[1] + dy)
                if following not in before and (following in targets or passable(following)):
                    if cell == start or cell not in targets:
                        before[following] = cell
                        queue.append(following)
        return None

    def free(self, cell):
        thing = self.at(cell)
        return thing is None or (thing.can_overlap() and thing.type not in ("lava", "goal"))

    def not_a_wall(self, cell):
        thing = self.at(cell)
        return thing is None or thing.type not in ("wall", "lava", "goal")

    # --- acting

    def act(self, action):
        result = self.env.step(action)
        if result[2] or result[3]:
            raise EpisodeEnd(result)

    def face(self, cell):
        """Turn to a neighbouring cell."""
        x, y = self.position
        wanted = MOVES.index((cell[0] - x, cell[1] - y))
        turns = (wanted - self.game.agent_dir) % 4
        for action in {0: (), 1: (RIGHT,), 2: (RIGHT, RIGHT), 3: (LEFT,)}[turns]:
            self.act(action)

    def reach(self, target):
        """Stand before ``target`` and look at it; clears the way of doors and things if there is no free one."""
        while True:
            path = self.path(self.position, {target}, self.free)
            if path is None:
                path = self.path(self.position, {target}, self.not_a_wall)
                assert path is not None, f"no way to {target}"
            for cell in path[:-1]:
                self.face(cell)
                if not self.free(cell):
                    break
                self.act(FORWARD)
            else:
                self.face(target)
                return
            self.clear(cell)

    def clear(self, cell):
        """Open the door or take away the thing in this cell, which is before the agent."""
        thing = self.at(cell)
        if thing.type != "door":
            self.take(thing)
        elif not thing.is_locked:
            self.act(TOGGLE)
        else:
            key = self.key_of(thing)
            if self.game.carrying is not key:
                self.take(key)
                self.reach(cell)
            self.act(TOGGLE)

    def key_of(self, door):
        things = [self.game.carrying, *(self.at(cell) for kind in ("key", "box") for cell in self.cells(kind))]
        for thing in things:
            for key in (thing, thing.contains) if thing else ():
                if key and key.type == "key" and key.color == door.color:
                    return key
        raise AssertionError(f"no {door.color} key")

    def take(self, thing):
        if self.game.carrying is not None and self.game.carrying.contains is thing:
            self.put_down()  # the box that it is in
        cell = self.find(thing)
        self.reach(cell)
        while self.game.carrying is not None:  # perhaps the key of a door on the way
            self.put_down()
            self.reach(cell)
        if self.at(cell) is not thing:
            self.act(TOGGLE)  # a box: open it
        self.act(PICKUP)

    def put_down(self):
        """Drop what is carried where it is in no way: with as many free cells around it as possible."""
        if self.game.carrying is None:
            return
        spots = {}
        queue, seen = deque([self.position]), {self.position}
        while queue:
            cell = queue.popleft()
            around = [(cell[0] + dx, cell[1] + dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1) if (dx, dy) != (0, 0)]
            if cell != self.position and self.at(cell) is None:
                doors = sum(thing is not None and thing.type == "door" for thing in map(self.at, around))
                spots[cell] = (doors, -sum(self.at(other) is None for other in around))
            for dx, dy in MOVES:
                following = (cell[0] + dx, cell[1] + dy)
                if following not in seen and self.free(following):
                    seen.add(following)
                    queue.append(following)
        spot = min(spots, key=spots.__getitem__)
        self.reach(spot)
        self.act(DROP)


class _Wall:
    type = "wall"
    contains = None

    def can_overlap(self):
        return False


WALL = _Wall()


# --- one plan for each kind of task


def go_to_the_goal(planner):
    (goal,) = planner.cells("goal")
    planner.reach(goal)
    planner.act(FORWARD)


def pick_up(planner):
    planner.take(planner.game.obj)


def open_the_door(planner):
    planner.reach(planner.find(planner.game.door))
    planner.clear(planner.find(planner.game.door))


def fetch(planner):
    planner.reach(planner.cells(planner.game.targetType, planner.game.targetColor)[0])
    planner.act(PICKUP)


def go_to_target(planner):
    planner.reach(tuple(map(int, planner.game.target_pos)))
    planner.act(DONE)


def put_near(planner):
    game = planner.game
    planner.reach(tuple(map(int, game.move_pos)))
    planner.act(PICKUP)
    x, y = map(int, game.target_pos)
    near = [(x + dx, y + dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1) if planner.at((x + dx, y + dy)) is None]
    spot = planner.path(planner.position, set(near), planner.free)[-1]
    planner.reach(spot)
    planner.act(DROP)


def red_then_blue(planner):
    for door in (planner.game.red_door, planner.game.blue_door):
        planner.reach(planner.find(door))
        planner.act(TOGGLE)


def remember(planner):
    planner.reach(tuple(map(int, planner.game.success_pos)))
    planner.act(FORWARD)


def dodge(planner):
    """Obstacles move at every step: look anew before each, and go on only into a free cell."""
    (goal,) = planner.cells("goal")
    while True:
        path = planner.path(planner.position, {goal}, planner.free)
        if path is None:
            planner.act(LEFT)
            continue
        x, y = planner.position
        turns = (MOVES.index((path[0][0] - x, path[0][1] - y)) - planner.game.agent_dir) % 4
        planner.act({0: FORWARD, 1: RIGHT, 2: RIGHT, 3: LEFT}[turns])


PLANS = {
    "UnlockEnv": open_the_door,
    "FetchEnv": fetch,
    "GoToDoorEnv": go_to_target,
    "GoToObjectEnv": go_to_target,
    "PutNearEnv": put_near,
    "RedBlueDoorEnv": red_then_blue,
    "MemoryEnv": remember,
    "DynamicObstaclesEnv": dodge,
    **dict.fromkeys(("UnlockPickupEnv", "BlockedUnlockPickupEnv", "KeyCorridorEnv"), pick_up),
    **dict.fromkeys(("ObstructedMaze_1Dlhb", "ObstructedMaze_Full", "ObstructedMaze_Full_V1"), pick_up),
    **dict.fromkeys(("ObstructedMaze_2Dl", "ObstructedMaze_2Dlh", "ObstructedMaze_2Dlhb"), pick_up),
}
