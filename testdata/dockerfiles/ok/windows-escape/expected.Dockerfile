# escape=`

FROM scratch
ENV DIR=c:\x` y ROOT="c:\"
RUN dir   c:\
WORKDIR c:\app
