import numpy as np
from scipy.special import erf
from .segmentation import distance
def _peak_share(diameter, sigma):
    """The centre of a blurred ball as a share of its height, 0 to 1."""
    a = diameter / 2 / (sigma * np.sqrt(2))
    return erf(a) - 2 / np.sqrt(np.pi) * a * np.exp(-(a**2))


def volume(cube, part, spacing):
    hu, body, other, lung, step = cube.hu, part.body, part.other, part.lung_hu, cube.step
    sigma2 = (1.1 / 2.3548) ** 2 + np.mean(np.square(spacing)) / 12
    rim = 1.0 + 0.5 * np.max(spacing)
    to_body = distance(~body, step)
    shell = ~body & ~other & (to_body <= rim) & (to_body < distance(~other, step))
    inner = distance(body, step)
    seen = part.nodule_hu - lung
    sigma = np.sqrt(sigma2 + (0.22 * inner.max()) ** 2)

    def volume_for(height):
        share = (hu - lung) / height
        v = np.where(inner > 1.2, 1, np.minimum(share, 1))[body].sum() + share[shell].sum()
        return v * step**3

    height = seen
    for _ in range(10):
        d = np.cbrt(6 * max(volume_for(height), step**3) / np.pi)
        new = seen / max(_peak_share(d, sigma), 0.1)
        if lung + new > 50:
            new = max(seen, 50 - lung)
        height = 0.5 * (height + new)
    return volume_for(height), lung + height
