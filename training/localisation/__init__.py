"""Does a map point at the boxes readers drew?"""
