"""From files to batches: safe decoding, folders of classes, augmentation, loading ahead."""
