# syntax=docker/dockerfile:1
# check=skip=JSONArgsRecommended;error=true

ARG GO=1.24

FROM --platform=$BUILDPLATFORM golang:${GO} AS Build
WORKDIR /src
# TARGETARCH is what to build for
ARG TARGETARCH
COPY --link go.mod go.sum ./
RUN --mount=type=cache,target=/root/.cache --network=none     go build       -o /out/app ./...

FROM scratch
COPY --from=build --chown=1000:1000 --chmod=0755 /out/app /app
ENV PATH=/ GREETING="hello world"     EMPTY=
LABEL org.example.title "legacy form"
EXPOSE 8080/tcp 443
USER 1000
HEALTHCHECK --interval=30s --retries=3 CMD ["/app", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/app"]
CMD ["serve"]
