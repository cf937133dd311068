/* A program that knows nothing of ipcio: shared memory by shm_open(3) and mmap(2).

   peer create NAME SIZE    make it exclusively
   peer attach NAME         open what is there
   peer unlink NAME         remove the name

   After create and attach it prints the size and obeys lines on stdin until they
   end:  "set N" fills the memory with the byte N,  "get" prints the first and the
   last byte,  "size" prints the size that the system tells.  */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int
fail (const char *what)
{
  printf ("%s: errno %d\n", what, errno);
  return 1;
}

int
main (int argc, char **argv)
{
  char name[300], line[100];
  struct stat info;
  unsigned char *memory;
  int fd, byte;

  if (argc < 3)
    return 2;
  snprintf (name, sizeof name, "/%s", argv[2]);
  if (strcmp (argv[1], "unlink") == 0)
    return shm_unlink (name) ? fail ("unlink") : 0;
  if (strcmp (argv[1], "create") == 0)
    {
      fd = shm_open (name, O_CREAT | O_EXCL | O_RDWR, 0600);
      if (fd < 0)
        return fail ("create");
      if (ftruncate (fd, atol (argv[3])))
        return fail ("size");
    }
  else
    {
      fd = shm_open (name, O_RDWR, 0);
      if (fd < 0)
        return fail ("attach");
    }
  if (fstat (fd, &info))
    return fail ("stat");
  memory = mmap (NULL, info.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED)
    return fail ("map");
  printf ("%ld\n", (long) info.st_size);
  fflush (stdout);
  while (fgets (line, sizeof line, stdin))
    {
      if (sscanf (line, "set %d", &byte) == 1)
        {
          memset (memory, byte, info.st_size);
          puts ("done");
        }
      else if (strncmp (line, "size", 4) == 0)
        {
          if (fstat (fd, &info))
            return fail ("stat");
          printf ("%ld\n", (long) info.st_size);
        }
      else
        printf ("%d %d\n", memory[0], memory[info.st_size - 1]);
      fflush (stdout);
    }
  return 0;
}
