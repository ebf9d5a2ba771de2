import subprocess
import sys

CHECK = """
import sys
from sslkernels.compat import lightly, metric_learning, official, solo
originals = {"lightly", "solo", "pytorch_metric_learning", "torchvision"} & set(sys.modules)
assert not originals, originals
"""


def test_no_original_is_imported():
    subprocess.run([sys.executable, "-c", CHECK], check=True)
