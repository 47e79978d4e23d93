
from scratch
run
CMD []
ENTRYPOINT ["a"] b
COPY ["a b", "/c d/"]
COPY -- --x y
ADD --unpack=false --keep-git-dir --checksum=sha256:00 http://h/x /
VOLUME a "b c"
EXPOSE $PORTS 127.0.0.1:1:2/UDP
MAINTAINER somebody <some@body>
SHELL ["/bin/sh", "-e", "-c"]
HEALTHCHECK NONE
ARG A B="c d" C=
RUN echo tail
