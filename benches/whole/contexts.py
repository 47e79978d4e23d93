"""The contexts of the workloads: the same bytes on every machine."""
import io
import os
import random
import shutil
import tarfile

TIME = 1700000000
WORDS = ("function return const let var module exports require this prototype value index length Object Array string "
         "number promise async await error callback options config default import from class extends super static null "
         "undefined true false typeof instanceof delete new").split()


def text(rng, size):
    """Text that compresses like source code."""
    lines, length = [], 0
    while length < size:
        words = [rng.choice(WORDS) if rng.random() < .8 else f"{rng.getrandbits(40):x}" for _ in range(rng.randint(3, 12))]
        lines.append(" ".join(words) + ";\n")
        length += len(lines[-1])
    return "".join(lines).encode()


def write(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data if isinstance(data, bytes) else data.encode())
    os.chmod(path, 0o644)
    os.utime(path, (TIME, TIME))


def dockerfile(path, name, body):
    """Where the registry is, is known when it runs."""
    write(f"{path}/{name}", "ARG REGISTRY\n" + body)


def modules(root, rng):
    """20,000 files, 200 MB, nested like node_modules; sizes log-normal, no two files alike."""
    pool = text(rng, 8 << 20)
    count = package = 0
    while count < 20000:
        directory = os.path.join(root, "node_modules", f"pkg-{package:04d}")
        if rng.random() < .25:
            directory = os.path.join(directory, "node_modules", f"dep-{package % 7}")
        package += 1
        for folder in ("", "lib", "dist/esm", "src/internal/util"):
            for number in range(rng.randint(2, 14)):
                if count == 20000:
                    return
                size = min(int(rng.lognormvariate(8.45, 1.25)), 600000)
                start = rng.randrange(len(pool) - 1)
                body = (pool[start:start + size] + pool)[:size]
                write(os.path.join(directory, folder, f"f{number:02d}.js"), b"// %d\n" % count + body)
                count += 1


def tree(path, base):
    """W1 and W3."""
    modules(path, random.Random(42))
    write(f"{path}/package.json", '{"name":"app","version":"1.0.0"}\n')
    write(f"{path}/package-lock.json", '{"lock":1}\n' * 2000)
    for number in range(60):
        write(f"{path}/src/m{number:02d}.js", f"// module {number}\n" * 40)
    write(f"{path}/src/changeme.js", "// v0\n")
    write(f"{path}/.dockerignore", ".git\n*.log\n**/*.tmp\nDockerfile*\n")
    dockerfile(path, "Dockerfile.w1", f"""FROM $REGISTRY/debian:dev
ENV NODE_ENV=production
WORKDIR /app
COPY package.json package-lock.json ./
RUN echo install > /install.log
RUN mkdir -p /app/build && echo deps > /app/build/deps
COPY . .
ARG VERSION=1.0
RUN find /app -type f | wc -l > /count
RUN echo done $VERSION > /done
LABEL org.example.version=$VERSION
CMD ["/bin/sh"]
""")
    dockerfile(path, "Dockerfile.w3", f"FROM $REGISTRY/busybox:latest\nCOPY . /app\n")


def steps(path, base):
    """W2, and the primer that brings busybox into a store."""
    runs = [f"RUN echo {number} > /f{number}\n" for number in range(1, 41)]
    dockerfile(path, "Dockerfile", f"FROM $REGISTRY/busybox:latest\n" + "".join(runs))
    dockerfile(path, "Dockerfile.one", f"FROM $REGISTRY/busybox:latest\nRUN echo 1 > /f1\n")


def stages(path, base):
    """W4."""
    sleeping = [f"FROM $REGISTRY/busybox:latest AS s{i}\nRUN sleep 2 && echo {i} > /o{i}\n" for i in range(4)]
    copies = [f"COPY --from=s{i} /o{i} /o{i}\n" for i in range(4)]
    dockerfile(path, "Dockerfile", "".join(sleeping) + f"FROM $REGISTRY/busybox:latest\n" + "".join(copies))


def payload(path, base):
    """W5: programs and documents, the same compressed already, and text; about 600 MB."""
    os.makedirs(f"{path}/data", exist_ok=True)
    for layer in ("base", "dev"):
        for ending in ("tar", "tar.gz"):
            target = f"{path}/data/{layer}.{ending}.bin"
            shutil.copyfile(f"{base}/{layer}.{ending}", target)
            os.utime(target, (TIME, TIME))
    write(f"{path}/data/text.txt", text(random.Random(5), 80 << 20))
    dockerfile(path, "Dockerfile", f"FROM $REGISTRY/busybox:latest\nCOPY data /data\n")


def pull(path, base):
    """W6."""
    dockerfile(path, "Dockerfile", f"FROM $REGISTRY/debian:dev\nRUN true\n")


def units(path, base):
    """W7: a C program of 200 files."""
    rng = random.Random(7)
    for unit in range(200):
        table = ", ".join(str(rng.randrange(1 << 30)) for _ in range(64))
        functions = "".join(
            f"static int h{unit}_{k}(const unsigned char *p, int n) {{ unsigned s = {rng.randrange(1 << 30)}u; "
            f"for (int i = 0; i < n; i++) {{ s = (s << {rng.randint(1, 15)}) ^ (s >> {rng.randint(1, 15)}) ^ p[i]; "
            f"if (s & {1 << rng.randint(0, 20)}) s += t[(s + i) & 63]; }} return (int)s; }}\n" for k in range(12))
        calls = "".join(f"r ^= h{unit}_{k}(p, n); " for k in range(12))
        write(f"{path}/src/u{unit:03d}.c",
              f'#include <stdio.h>\n#include <string.h>\n#include "all.h"\nstatic const unsigned t[64] = {{{table}}};\n'
              f"{functions}int unit_{unit}(const unsigned char *p, int n) {{ int r = 0; {calls}return r; }}\n")
    names = range(200)
    write(f"{path}/src/all.h", "".join(f"int unit_{i}(const unsigned char *, int);\n" for i in names))
    calls = "".join(f'r ^= unit_{i}((const unsigned char *)"bench", 5);\n' for i in names)
    write(f"{path}/src/main.c", f'#include <stdio.h>\n#include "all.h"\nint main(void) {{ int r = 0;\n{calls}printf("%d\\n", r); return 0; }}\n')
    write(f"{path}/src/Makefile", "CFLAGS=-O1\nOBJ=$(patsubst %.c,%.o,$(wildcard *.c))\nprog: $(OBJ)\n\t$(CC) -o $@ $(OBJ)\n"
                                  "%.o: %.c all.h\n\t$(CC) $(CFLAGS) -c -o $@ $<\n")
    dockerfile(path, "Dockerfile", f"""FROM $REGISTRY/debian:dev AS build
WORKDIR /src
COPY src/ .
RUN make -j2 && ./prog
FROM $REGISTRY/debian:base
COPY --from=build /src/prog /usr/local/bin/prog
RUN /usr/local/bin/prog > /prog.out
CMD ["/usr/local/bin/prog"]
""")


def wide(path, base):
    """W8: the tar of 50,000 files, and RUNs that each change one of them."""
    os.makedirs(path, exist_ok=True)
    rng = random.Random(8)
    pool = text(rng, 1 << 20)
    with tarfile.open(f"{path}/files.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for directory in range(250):
            member = tarfile.TarInfo(f"data/d{directory:03d}")
            member.type, member.mode, member.mtime = tarfile.DIRTYPE, 0o755, TIME
            archive.addfile(member)
            for file in range(200):
                size = rng.randint(50, 3000)
                start = rng.randrange(len(pool) - size)
                member = tarfile.TarInfo(f"data/d{directory:03d}/f{file:03d}")
                member.size, member.mode, member.mtime = size, 0o644, TIME
                archive.addfile(member, io.BytesIO(pool[start:start + size]))
    dockerfile(path, "Dockerfile.base", f"FROM $REGISTRY/busybox:latest\nADD files.tar /\n")
    for name, count in (("Dockerfile", 10), ("Dockerfile.one", 1)):
        runs = "".join(f"RUN echo {i} >> /data/d{i:03d}/f{i:03d}\n" for i in range(count))
        dockerfile(path, name, f"FROM $REGISTRY/files50k:latest\n{runs}")


def million(path, base):
    """A context of 1,000,000 files of a few bytes each, and 1,000 beside them."""
    for number in range(1000):
        write(f"{path}/few/{number // 50:02d}/{number % 50:02d}", f"{number}\n")
    for outer in range(100):
        for inner in range(100):
            directory = f"{path}/files/{outer:02d}/{inner:02d}"
            os.makedirs(directory, exist_ok=True)
            for number in range(100):
                with open(f"{directory}/{number:02d}", "w", encoding="ascii") as file:
                    file.write(f"{outer} {inner} {number}\n")
    dockerfile(path, "Dockerfile", f"FROM $REGISTRY/busybox:latest\nCOPY files /files\n")
    dockerfile(path, "Dockerfile.few", f"FROM $REGISTRY/busybox:latest\nCOPY . /few\n")
    write(f"{path}/Dockerfile.few.dockerignore", "files\n")


def large(path, base):
    """An image of 12 layers and 3.5 GB, and one more of 10 KB."""
    os.makedirs(path, exist_ok=True)
    rng = random.Random(12)
    with open(f"{path}/data", "wb") as file:
        for _ in range(292):
            file.write(rng.randbytes(1_000_000))
    write(f"{path}/small", rng.randbytes(10_000))
    copies = "".join(f"COPY data /data{i}\n" for i in range(12))
    dockerfile(path, "Dockerfile", f"FROM scratch\n{copies}COPY small /\n")


def many(path, base):
    """A small Dockerfile, and how to make thousands of images that differ in a label."""
    write(f"{path}/file", "file\n")
    dockerfile(path, "Dockerfile", f"FROM $REGISTRY/busybox:latest\nARG NUMBER=0\nCOPY file /file\nRUN echo 1 > /one\nLABEL number=$NUMBER\n")


CONTEXTS = [tree, steps, stages, payload, pull, units, wide, million, large, many]
