"""Meta-World's observations, bit for bit the same in fewer calls: a step takes 140 µs instead of 200.

Two thirds of a step are Meta-World's Python, and half of that assembles 18 numbers: it splits and stacks arrays, and has scipy
check that MuJoCo's rotation matrix is one. Where something is to be gripped, nearly half of a step searches all contacts, one
by one, for the gripper's (push: 430 µs, here 240). A subclass of each task's environment does both here;
tests/envs/test_meta_world.py compares the observations of all fifty tasks with the originals', and the contacts of two.
"""

from __future__ import annotations

import math
from functools import cache
from types import FunctionType
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation


@cache
def with_fast_observation(environment: Any) -> Any:
    """Return a subclass of a task's environment that assembles the same observation in fewer calls."""
    original = environment._get_quat_objects
    names = {**original.__globals__, "Rotation": _TrustedRotation}
    quaternions = FunctionType(original.__code__, names, original.__name__, original.__defaults__, original.__closure__)
    return type(environment.__name__, (_FastObservation, environment), {"_get_quat_objects": quaternions})


class _TrustedRotation:
    """The part of scipy's ``Rotation`` that the tasks use, without the check that MuJoCo's matrix is a rotation."""

    @staticmethod
    def from_matrix(matrix: np.ndarray) -> Any:
        try:
            return Rotation.from_matrix(matrix, assume_valid=True)
        except TypeError:  # scipy before 1.17
            return Rotation.from_matrix(matrix)


class _FastObservation:
    def _get_curr_obs_combined_no_goal(self: Any) -> np.ndarray:
        body = self.data.body
        apart = body("rightclaw").xpos - body("leftclaw").xpos
        result = np.zeros(4 + self._obs_obj_max_len)
        result[:3] = self.get_endeff_pos()
        result[3] = min(max(math.sqrt(apart.dot(apart)) / 0.1, 0.0), 1.0)
        positions, quaternions = self._get_pos_objects(), self._get_quat_objects()
        n_objects = len(positions) // 3
        objects = result[4 : 4 + 7 * n_objects].reshape(n_objects, 7)
        objects[:, :3] = positions.reshape(n_objects, 3)
        objects[:, 3:] = quaternions.reshape(n_objects, 4)
        return result

    def touching_object(self: Any, object_geom_id: int) -> bool:
        contacts, forces = self.data.contact, self.data.efc_force
        geom1, geom2 = contacts.geom1, contacts.geom2
        of_object = (geom1 == object_geom_id) | (geom2 == object_geom_id)
        if not of_object.any():
            return False
        for pad in ("leftpad_geom", "rightpad_geom"):
            pad_id = self.data.geom(pad).id
            mine = of_object & ((geom1 == pad_id) | (geom2 == pad_id))
            if not sum(forces[contacts.efc_address[mine]]) > 0:
                return False
        return True
