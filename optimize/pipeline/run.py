"""From a recipe to an artifact: run the stages, save, check, measure, install."""

from optimize.pipeline import artifact
from optimize.pipeline.failure import explained
from optimize.pipeline.job import Job
from optimize.pipeline.stages import run_controls, run_stages
from optimize.tasks.base import A, D
from optimize.training import distributed


def run(job: Job[D, A]) -> None:
    """Run the recipe's stages and install the artifact in the job's folder.

    Raises:
        OptimizeError: anything that the user can fix.
    """
    scratch = job.folder / "stages"
    states = run_stages(job, scratch)
    controls = run_controls(job, states[-1], scratch)
    if distributed.leads():
        with explained("saving and measuring the model"):
            artifact.prepare(job, states, scratch, controls=controls)
        artifact.install(scratch, job.folder)
