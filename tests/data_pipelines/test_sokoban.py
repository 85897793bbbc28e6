"""Sokoban: the rules against a plain implementation, the exact solver, the expert, the pictures."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest

from gato.data_pipelines.environments.base import COLLECTION_SEED, EVALUATION_SEED, ExpertError
from gato.data_pipelines.environments.registry import get_task, list_tasks
from gato.data_pipelines.environments.sokoban_levels import MOVES, SIZE, UNSOLVABLE, Puzzle, generate, is_held_out
from gato.data_pipelines.episode import check_episode
from gato.data_pipelines.rollout import demonstration, random_policy, rollout

TASKS = ("sokoban/7x7-1box", "sokoban/7x7-2box")


def parse(*rows: str) -> tuple[Puzzle, tuple, frozenset]:
    """A board drawn as text: # wall, . target, @ player, $ box, * box on target. Also player and boxes."""
    grid = np.array([list(row) for row in rows])
    places = [tuple(map(int, cell)) for cell in np.argwhere((grid == "$") | (grid == "*"))]
    (player,) = np.argwhere(grid == "@")
    return Puzzle(grid == "#", (grid == ".") | (grid == "*")), tuple(map(int, player)), frozenset(places)


def index(puzzle: Puzzle, player: tuple, boxes: frozenset) -> int:
    for state in range(puzzle.successors.shape[1]):
        first, *others = (tuple(map(int, cell)) for cell in puzzle.pieces(state))
        if first == player and others == sorted(boxes):
            return state
    raise AssertionError("no such state")


def plain_step(puzzle: Puzzle, player: tuple, boxes: frozenset, action: int) -> tuple[tuple, frozenset]:
    """The rules of Sokoban, one case after another."""

    def free(cell: tuple) -> bool:
        return min(cell) >= 0 and max(cell) < SIZE and not puzzle.walls[cell]

    down, right = MOVES[action]
    ahead, beyond = (player[0] + down, player[1] + right), (player[0] + 2 * down, player[1] + 2 * right)
    if not free(ahead):
        return player, boxes
    if ahead not in boxes:
        return ahead, boxes
    if not free(beyond) or beyond in boxes:
        return player, boxes
    return ahead, boxes - {ahead} | {beyond}


def plain_distance(puzzle: Puzzle, player: tuple, boxes: frozenset) -> int:
    """Forward breadth-first search."""
    goal = frozenset(tuple(map(int, cell)) for cell in np.argwhere(puzzle.targets))
    queue, seen = deque([(player, boxes, 0)]), {(player, boxes)}
    while queue:
        player, boxes, moves = queue.popleft()
        if boxes == goal:
            return moves
        for action in range(len(MOVES)):
            following = plain_step(puzzle, player, boxes, action)
            if following not in seen:
                seen.add(following)
                queue.append((*following, moves + 1))
    return UNSOLVABLE


def read(puzzle: Puzzle, state: int) -> tuple[tuple, frozenset]:
    player, *boxes = (tuple(map(int, cell)) for cell in puzzle.pieces(state))
    return player, frozenset(boxes)


@pytest.mark.parametrize("boxes", [1, 2])
def test_moves_and_distances_agree_with_plain_search(boxes):
    rng = np.random.default_rng(boxes)
    for seed in range(4):
        level = generate(boxes, np.random.default_rng(seed), held_out=False)
        puzzle, state = level.puzzle, level.start
        for _ in range(25):
            player, places = read(puzzle, state)
            assert puzzle.distance[state] == plain_distance(puzzle, player, places)
            action = int(rng.integers(4))
            state = int(puzzle.successors[action, state])
            assert read(puzzle, state) == plain_step(puzzle, player, places, action)


def test_known_positions():
    puzzle, player, boxes = parse("     ", " @$ .", "     ", "     ", "     ")
    assert puzzle.distance[index(puzzle, player, boxes)] == 2
    puzzle, player, boxes = parse("$    ", " @  .", "     ", "     ", "     ")
    assert puzzle.distance[index(puzzle, player, boxes)] == UNSOLVABLE  # in a corner
    puzzle, player, boxes = parse(" @   ", " $   ", " $   ", " ..  ", "     ")
    state = index(puzzle, player, boxes)
    assert puzzle.successors[1, state] == state  # two boxes in a row do not move


@pytest.mark.parametrize("boxes", [1, 2])
def test_levels_are_solvable_varied_and_apart(boxes):
    count = 60 if boxes == 1 else 20
    train, test = (
        [generate(boxes, np.random.default_rng(first + seed), held_out) for seed in range(count)]
        for first, held_out in ((COLLECTION_SEED, False), (EVALUATION_SEED, True))
    )
    for level in train + test:
        assert 4 <= level.puzzle.distance[level.start] <= 36
        player, places = read(level.puzzle, level.start)
        assert len(places) == boxes == level.puzzle.targets.sum()
        assert player not in places
    boards = [
        {(level.puzzle.walls.tobytes(), level.puzzle.targets.tobytes()) for level in part} for part in (train, test)
    ]
    assert boards[0].isdisjoint(boards[1])
    assert len(boards[0]) > 0.9 * count, "varied"
    assert all(is_held_out(level.puzzle.walls, level.puzzle.targets) for level in test)


@pytest.mark.parametrize("name", TASKS)
def test_expert_solves_every_level_in_the_fewest_moves(name):
    assert name in list_tasks()
    task = get_task(name)
    environment = task.make()
    for seed in range(EVALUATION_SEED, EVALUATION_SEED + 20):
        observation = environment.reset(seed)
        fewest = environment.level.puzzle.distance[environment.level.start]
        episode = rollout(environment, task.expert(environment, np.random.default_rng(0)), observation)
        check_episode(episode, environment.spec, name)
        assert episode.metadata["success"]
        assert episode.terminated
        assert len(episode) == fewest
        assert episode.rewards.sum() == episode.rewards[-1] == 1
    assert task.expert_score == 1.0
    assert task.random_score < 0.3


def test_noisy_demonstrations_hold_the_answer_to_every_position():
    """The label is the expert's in the position shown, whatever was executed: one image, one label."""
    task = get_task(TASKS[0])
    environment = task.make()
    answers: dict[bytes, int] = {}
    detours = 0
    for number in range(60):
        episode = demonstration(task, environment, number, seed=0)
        assert episode.metadata["success"]
        environment.reset(episode.metadata["reset_seed"])
        detours += len(episode) > environment.level.puzzle.distance[environment.level.start]
        for image, action in zip(episode.observations["image"], episode.actions["action"], strict=True):
            assert answers.setdefault(image.tobytes(), int(action)) == action
    assert detours >= 5


def test_an_episode_ends_where_the_level_is_lost():
    environment = get_task(TASKS[0]).make()
    expert = get_task(TASKS[0]).expert
    lost = 0
    for seed in range(60):
        observation = environment.reset(seed)
        policy = random_policy(environment.spec, np.random.default_rng(seed))
        episode = rollout(environment, policy, observation)
        assert episode.terminated or len(episode) == 50
        if episode.terminated and not episode.metadata["success"]:
            lost += 1
            with pytest.raises(ExpertError, match="cannot be solved"):
                expert(environment, np.random.default_rng(0))(observation)
    assert lost >= 3


def test_the_step_limit_truncates():
    environment = get_task(TASKS[0]).make()
    for seed in range(50):
        environment.reset(seed)
        puzzle = environment.level.puzzle
        blocked = np.flatnonzero(puzzle.successors[:, environment.state] == environment.state)
        if len(blocked):
            break
    ends = [environment.step({"action": blocked[0]})[2:4] for _ in range(50)]
    assert ends == [(False, False)] * 49 + [(False, True)]


def test_pictures_show_every_piece():
    environment = get_task(TASKS[1]).make()
    image = environment.reset(11)["image"]
    tiles = image.reshape(SIZE, 16, SIZE, 16, 3).swapaxes(1, 2)
    kinds = {tile.tobytes() for tile in tiles.reshape(-1, 16, 16, 3)}
    assert 5 <= len(kinds) <= 7  # floor, wall, target, box, player, and what stands on a target
    puzzle = environment.level.puzzle
    walls = tiles[puzzle.walls]
    assert len(walls) > 0
    assert (walls == walls[0]).all()
    player = puzzle.pieces(environment.state)[0]
    assert (tiles[tuple(player)] == tiles).all(axis=(2, 3, 4)).sum() == 1
    assert environment.frame().shape == (160, 160, 3)
    following = environment.step({"action": np.array(0)})[0]["image"]
    assert image.dtype == following.dtype == np.uint8
