"""Distances, angles and rotations where they degenerate."""

import jax
import jax.numpy as jnp

from .._registry import call, program


@program(kind="inf", direction="forward", primitive="div", cause=("zero",))
def inverse_distance_interpolation():
    """The query is one of the data points; the gradient reaches every value."""

    def interpolate(values, points, query):
        distance = jnp.abs(points - query)  # <- zero
        weights = 1.0 / distance  # <- here
        return jnp.sum(weights * values) / jnp.sum(weights)  # <- then

    def repaired(values, points, query):
        weights = 1.0 / (jnp.abs(points - query) + 1e-6)
        return jnp.sum(weights * values) / jnp.sum(weights)

    args = jnp.arange(3.0), jnp.array([0.0, 0.5, 1.0]), jnp.array(0.5)
    return call(jax.value_and_grad(interpolate), *args).repaired(
        jax.value_and_grad(repaired)
    )


@program(kind="inf", direction="forward|backward", cause=("where", "zero"))
def lennard_jones_with_a_masked_diagonal():
    """Each atom's distance to itself is masked after the division."""

    def energy(positions):
        gap = positions[:, None] - positions[None, :]
        squared = jnp.sum(gap**2, axis=-1)  # <- zero
        inverse = (1.0 / squared) ** 3  # <- here
        pair = 4 * (inverse**2 - inverse)
        return 0.5 * jnp.sum(jnp.where(jnp.eye(len(positions)) == 1, 0.0, pair))

    def repaired(positions):
        gap = positions[:, None] - positions[None, :]
        same = jnp.eye(len(positions)) == 1
        squared = jnp.where(same, 1.0, jnp.sum(gap**2, axis=-1))
        inverse = (1.0 / squared) ** 3
        return 0.5 * jnp.sum(jnp.where(same, 0.0, 4 * (inverse**2 - inverse)))

    positions = jnp.array([[0.0, 0.0], [1.1, 0.0], [0.0, 1.2]])
    return call(jax.jit(jax.grad(energy)), positions).repaired(jax.grad(repaired))


@program(kind="inf", direction="forward", primitive="div", cause=("zero",))
def coulomb_with_an_added_mask():
    """A diagonal of infinities, times zero."""

    def energy(charges, positions):
        gap = jnp.abs(positions[:, None] - positions[None, :])  # <- zero
        pair = charges[:, None] * charges[None, :] / gap  # <- here
        return 0.5 * jnp.sum((1 - jnp.eye(charges.size)) * pair)  # <- then

    def repaired(charges, positions):
        eye = jnp.eye(charges.size)
        gap = jnp.abs(positions[:, None] - positions[None, :]) + eye
        return 0.5 * jnp.sum((1 - eye) * charges[:, None] * charges[None, :] / gap)

    args = jnp.array([1.0, -1.0]), jnp.array([0.0, 2.0])
    return call(energy, *args).repaired(repaired)


@program(
    kind="inf",
    direction="backward",
    cause=("arccos|acos",),
)
def rotation_angle_of_no_rotation():
    """The angle from the trace, at the identity."""

    def loss(rotation):
        cosine = (jnp.trace(rotation) - 1) / 2
        return jnp.arccos(cosine) ** 2  # <- here

    def repaired(rotation):
        cosine = (jnp.trace(rotation) - 1) / 2
        return jnp.arccos(jnp.clip(cosine, -1 + 1e-6, 1 - 1e-6)) ** 2

    return call(jax.grad(loss), jnp.eye(3)).repaired(jax.grad(repaired))


@program(kind="nan", direction="forward", primitive="div", cause=("zero",))
def axis_of_an_identity_quaternion():
    """No rotation has no axis."""

    def rotation_vector(q):
        w, v = q[0], q[1:]
        length = jnp.linalg.norm(v)  # <- zero
        angle = 2 * jnp.arctan2(length, w)
        return angle * v / length  # <- here

    def repaired(q):
        w, v = q[0], q[1:]
        length = jnp.linalg.norm(v)
        safe = jnp.where(length > 0, length, 1.0)
        return jnp.where(length > 0, 2 * jnp.arctan2(length, w) / safe, 2.0) * v

    return call(jax.jit(rotation_vector), jnp.array([1.0, 0.0, 0.0, 0.0])).repaired(
        repaired
    )


@program(kind="nan|inf", direction="forward|backward", cause=("where", "zero"))
def rodrigues_with_a_where():
    """sin θ / θ is masked at θ = 0, its gradient is not."""

    def rotate(w, x):
        theta = jnp.sqrt(jnp.sum(w**2) + 0.0)
        ratio = jnp.sin(theta) / theta  # <- here
        scale = jnp.where(theta > 1e-6, ratio, 1.0)
        return jnp.sum(x * jnp.cos(theta) + scale * jnp.cross(w, x))

    def repaired(w, x):
        squared = jnp.sum(w**2)
        theta = jnp.sqrt(jnp.where(squared > 0, squared, 1.0))
        scale = jnp.where(squared > 0, jnp.sin(theta) / theta, 1.0)
        cosine = jnp.where(squared > 0, jnp.cos(theta), 1.0)
        return jnp.sum(x * cosine + scale * jnp.cross(w, x))

    return call(jax.grad(rotate), jnp.zeros(3), jnp.arange(3.0)).repaired(
        jax.grad(repaired)
    )


@program(
    kind="inf",
    direction="backward",
    cause=("arccosh|acosh",),
    never=("[-1, 1]", "clip(", "-1"),
)
def hyperbolic_distance_to_itself():
    """arccosh has an infinite slope at one."""

    def distance(u, v):
        gap = jnp.sum((u - v) ** 2)
        room = (1 - jnp.sum(u**2)) * (1 - jnp.sum(v**2))
        return jnp.arccosh(1 + 2 * gap / room)  # <- here

    def repaired(u, v):
        gap = jnp.sum((u - v) ** 2)
        room = (1 - jnp.sum(u**2)) * (1 - jnp.sum(v**2))
        return jnp.arccosh(jnp.maximum(1 + 2 * gap / room, 1 + 1e-6))

    u = jnp.array([0.3, 0.4])
    return call(jax.value_and_grad(distance), u, u).repaired(
        jax.value_and_grad(repaired)
    )


@program(kind="inf", direction="forward", primitive="div", cause=("zero",))
def poincare_metric_at_the_border():
    """A point that rounding has put onto the unit circle."""

    def riemannian_gradient(u, g):
        conformal = 2 / (1 - jnp.sum(u**2))  # <- here
        return g / conformal**2, conformal

    def repaired(u, g):
        conformal = 2 / jnp.maximum(1 - jnp.sum(u**2), 1e-5)
        return g / conformal**2, conformal

    return call(riemannian_gradient, jnp.array([0.0, 1.0]), jnp.ones(2)).repaired(
        repaired
    )


@program(kind="nan", direction="forward", primitive="div", cause=("zero",))
def cosine_similarity_with_padding():
    """A batch of embeddings, one of them padding."""

    def loss(a, b):
        norms = jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1)  # <- zero
        similarity = jnp.sum(a * b, axis=-1) / norms  # <- here
        return jnp.mean(1 - similarity)

    def repaired(a, b):
        squares = jnp.sum(a**2, axis=-1) * jnp.sum(b**2, axis=-1)
        norms = jnp.sqrt(jnp.maximum(squares, 1e-12))
        return jnp.mean(1 - jnp.sum(a * b, axis=-1) / norms)

    a = jnp.array([[1.0, 2.0], [0.0, 0.0]])
    return call(jax.jit(jax.value_and_grad(loss)), a, a).repaired(
        jax.value_and_grad(repaired)
    )


@program(
    kind="nan|inf",
    direction="backward",
    cause=("arctan2|atan2", "zero|origin"),
)
def polar_angle_of_the_centre():
    """An image's central pixel has no angle."""

    def loss(shift, grid):
        x, y = grid[0] - shift[0], grid[1] - shift[1]
        return jnp.sum(jnp.arctan2(y, x) ** 2)  # <- here

    def repaired(shift, grid):
        x, y = grid[0] - shift[0], grid[1] - shift[1]
        centre = (x == 0) & (y == 0)
        angle = jnp.arctan2(jnp.where(centre, 0.0, y), jnp.where(centre, 1.0, x))
        return jnp.sum(angle**2)

    grid = jnp.stack(jnp.meshgrid(jnp.arange(-1.0, 2.0), jnp.arange(-1.0, 2.0)))
    return call(jax.grad(loss), jnp.zeros(2), grid).repaired(jax.grad(repaired))


@program(kind="nan|inf", direction="backward", cause=("where", "zero|origin"))
def polar_angle_masked_by_radius():
    """The angle at the origin is masked, its gradient is a NaN all the same."""

    def loss(points):
        radius = jnp.sum(points**2, axis=-1)
        angle = jnp.arctan2(points[:, 1], points[:, 0])  # <- here
        return jnp.sum(jnp.where(radius > 0, angle, 0.0))

    def repaired(points):
        real = jnp.sum(points**2, axis=-1) > 0
        x, y = jnp.where(real, points[:, 0], 1.0), jnp.where(real, points[:, 1], 0.0)
        return jnp.sum(jnp.where(real, jnp.arctan2(y, x), 0.0))

    points = jnp.array([[3.0, 1.0], [0.0, 0.0], [-5.0, 2.0]])
    return call(jax.jit(jax.grad(loss)), points).repaired(jax.grad(repaired))


@program(kind="inf", direction="backward", cause=("sqrt|root",))
def great_circle_to_the_same_city():
    """The haversine formula between equal coordinates."""

    def distance(a, b):
        half = jnp.sin((a - b) / 2) ** 2
        h = half[0] + jnp.cos(a[0]) * jnp.cos(b[0]) * half[1]
        root = jnp.sqrt(h)  # <- here
        return 2 * 6371.0 * jnp.arcsin(root)

    def repaired(a, b):
        half = jnp.sin((a - b) / 2) ** 2
        h = half[0] + jnp.cos(a[0]) * jnp.cos(b[0]) * half[1]
        return 2 * 6371.0 * jnp.arcsin(jnp.sqrt(jnp.maximum(h, 1e-12)))

    city = jnp.array([0.9, 0.1])
    return call(jax.grad(distance), city, city).repaired(jax.grad(repaired))


@program(kind="inf|nan", direction="backward", cause=("norm|root|sqrt", "zero"))
def triplet_loss_with_its_own_positive():
    """Anchor and positive are the same example."""

    def loss(anchor, positive, negative):
        near = jnp.linalg.norm(anchor - positive, axis=-1)  # <- here
        far = jnp.linalg.norm(anchor - negative, axis=-1)
        return jnp.mean(jnp.maximum(near - far + 5.0, 0.0))

    def repaired(anchor, positive, negative):
        near = jnp.sqrt(jnp.sum((anchor - positive) ** 2, axis=-1) + 1e-12)
        far = jnp.sqrt(jnp.sum((anchor - negative) ** 2, axis=-1) + 1e-12)
        return jnp.mean(jnp.maximum(near - far + 5.0, 0.0))

    x = jnp.arange(6.0).reshape(2, 3)
    return call(jax.jit(jax.grad(loss)), x, x, -x - 1).repaired(jax.grad(repaired))


@program(kind="nan", direction="forward", primitive="div", cause=("zero",))
def dihedral_of_collinear_atoms():
    """Three atoms on a line span no plane."""

    def dihedral(p):
        b = jnp.diff(p, axis=0)
        first, second = jnp.cross(b[0], b[1]), jnp.cross(b[1], b[2])
        first = first / jnp.linalg.norm(first)  # <- here
        second = second / jnp.linalg.norm(second)
        return jnp.arccos(jnp.dot(first, second))

    def repaired(p):
        b = jnp.diff(p, axis=0)
        first, second = jnp.cross(b[0], b[1]), jnp.cross(b[1], b[2])
        sine = jnp.dot(jnp.cross(first, second), b[1]) / jnp.linalg.norm(b[1])
        return jnp.arctan2(sine, jnp.dot(first, second))

    atoms = jnp.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [2, 1, 0]])
    return call(jax.jit(dihedral), atoms).repaired(repaired)


@program(kind="nan", direction="forward", primitive="sqrt", cause=("negative",))
def area_of_an_impossible_triangle():
    """Heron's formula with a side longer than the other two together."""

    def area(sides):
        half = jnp.sum(sides) / 2
        product = half * jnp.prod(half - sides)
        return jnp.sqrt(product)  # <- here

    def repaired(sides):
        half = jnp.sum(sides) / 2
        return jnp.sqrt(jnp.maximum(half * jnp.prod(half - sides), 0.0))

    return call(area, jnp.array([1.0, 2.0, 4.0])).repaired(repaired)


@program(kind="inf|nan", direction="forward", primitive="div", cause=("zero", "depth"))
def projection_of_a_point_in_the_camera_plane():
    """A depth of zero."""

    def project(points, focal):
        x, y, depth = points.T
        return jnp.stack([focal * x, focal * y], axis=-1) / depth[:, None]  # <- here

    def repaired(points, focal):
        x, y, depth = points.T
        depth = jnp.maximum(depth, 0.01)
        return jnp.stack([focal * x, focal * y], axis=-1) / depth[:, None]

    points = jnp.array([[1.0, 2.0, 4.0], [1.0, 1.0, 0.0]])
    return call(jax.jit(project), points, 35.0).repaired(repaired)
