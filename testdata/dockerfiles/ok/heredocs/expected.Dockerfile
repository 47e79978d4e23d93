
FROM busybox
RUN <<EOF
#!/bin/sh
echo one
EOF
RUN cat <<A && cat 3<<-"B" | sort
$a
A
$b
B
COPY <<-E1 plain <<'E2' /dst/
tabs $V
E1
\literal
E2
ONBUILD RUN <<EOF
later
EOF
