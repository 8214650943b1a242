# What workers run on Kubernetes. From the repository:
#
#     docker build --tag=tf_codistill .                                                  for CPUs
#     docker build --tag=tf_codistill --build-arg=TENSORFLOW="tensorflow[and-cuda]" .    for NVIDIA's GPUs
#
# gin files of your own: an image that begins with FROM tf_codistill and copies them to /work.

FROM python:3.11-slim
ARG TENSORFLOW=tensorflow

WORKDIR /source
COPY setup.py pyproject.toml README.md LICENSE ./
COPY tf_codistill ./tf_codistill
COPY gin ./gin
RUN pip install --no-cache-dir . "$TENSORFLOW"

WORKDIR /work
ENV PYTHONUNBUFFERED=1 HOME=/tmp
USER 1000:1000
ENTRYPOINT ["python", "-m", "tf_codistill.train"]
