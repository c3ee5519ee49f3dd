"""How fast training is, next to other ways to write it.

python -m benchmarks.speed [--works A,B] [--contestants fit,scan] [--rounds 5]

Everyone trains the same model on the same images: an MLP VAE with one hidden relu layer
on each side, heads for mean and log std, sigmoid BCE summed over pixels plus the KL to
N(0, I), averaged over the batch, Adam at 1e-3, full batches of a fresh shuffle in each
epoch, and one draw of noise for each image.
"""
