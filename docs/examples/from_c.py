"""A C program and ipcio use the same segment by its name."""

import os
import subprocess
import sys
import tempfile

from ipcio import shm

NAME = sys.argv[1] if len(sys.argv) > 1 else "c-example"

SOURCE = r"""
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

int main(int argc, char **argv)
{
    int fd = shm_open(argv[1], O_RDWR, 0);
    char *memory = fd < 0 ? MAP_FAILED : mmap(NULL, 100, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) {
        perror(argv[1]);
        return 1;
    }
    printf("C reads: %s\n", memory);
    strcpy(memory, "hello from C");
    return 0;
}
"""

with tempfile.TemporaryDirectory() as folder, shm.create(NAME, 100) as h:
    program = os.path.join(folder, "program")
    subprocess.run(["cc", "-x", "c", "-o", program, "-", "-lrt"], input=SOURCE, text=True, check=True)
    h.write(b"hello from Python\0")
    subprocess.run([program, f"/{NAME}"], check=True)
    h.seek(0)
    print("Python reads:", h.read(12).decode())
