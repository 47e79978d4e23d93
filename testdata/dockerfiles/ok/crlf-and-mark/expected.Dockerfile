
FROM scratch
RUN a   b
VOLUME ["/x"]
