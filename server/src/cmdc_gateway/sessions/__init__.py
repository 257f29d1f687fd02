"""The shell round the kernel: sessions that commit, then show, then act."""
