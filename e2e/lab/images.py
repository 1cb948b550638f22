from pathlib import Path
from e2e.lab.config import Settings
from e2e.lab.disk import make_ext4, SYSTEM_DISK_GIB
def images_dir(settings: Settings) -> Path:
    path = settings.cache / "images"
    path.mkdir(parents=True, exist_ok=True)
    return path
def ensure_golden_disk(settings: Settings) -> Path:
    path = settings.cache / "golden" / "empty"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        make_ext4(path, SYSTEM_DISK_GIB << 30)
    return path
