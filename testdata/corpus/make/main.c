#include <stdio.h>
#include <unistd.h>
const char *text(void);
int main(void) { printf("%s, effective group %d\n", text(), (int)getegid()); return 0; }
