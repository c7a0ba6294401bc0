FROM corpus/base:1
COPY . /all
