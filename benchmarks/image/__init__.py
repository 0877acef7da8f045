"""The benchmark of the image, beside one that BentoML's plain recipe builds."""
